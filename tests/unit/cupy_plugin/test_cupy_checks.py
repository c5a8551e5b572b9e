"""Errors that a library reports in the call are reported in the call, before anything travels."""

from __future__ import annotations

import pytest
from cupy_loopback import Loopback, loopback
from invalid_calls import LIBRARIES, checked_functions, valid, violations
from migproxy_plugins.cupy import checks, standin

__all__ = ["loopback"]


@pytest.mark.parametrize("short", LIBRARIES)
def test_valid_calls_pass_and_every_rule_stops_what_breaks_it(short):
    seen = 0
    for signature in checked_functions(short):
        check = checks.check(short, signature)
        assert check is not None
        arguments = valid(signature, 64)
        assert check(*arguments.values()) == 0, signature.name
        broken = {rule: (values, status) for values, status, rule in violations(short, signature, arguments)}
        rules = dict(checks.conditions(short, signature))
        assert set(broken) == set(rules), signature.name
        for values, status in broken.values():
            assert check(*values.values()) == status
            seen += 1
    assert seen > 20


def test_an_invalid_product_fails_in_the_call_and_does_not_travel(loopback: Loopback):
    cublas = standin.make("cupy_backends.cuda.libs.cublas")
    handle = cublas.create()
    sent = len(loopback.calls)
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_INVALID_VALUE") as caught:
        cublas.sgemm(handle, 0, 0, 4, 4, 4, 0, 0, 3, 0, 4, 0, 0, 4)
    assert caught.value.status == 7
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        cublas.sgemm(0, 0, 0, 4, 4, 4, 0, 0, 4, 0, 4, 0, 0, 4)
    assert len(loopback.calls) == sent


def test_an_unknown_kind_of_generator_fails_where_it_is_made(loopback: Loopback):
    curand = standin.make("cupy_backends.cuda.libs.curand")
    with pytest.raises(curand.CURANDError, match="CURAND_STATUS_TYPE_ERROR"):
        curand.createGenerator(1)
    assert not loopback.calls


def test_empty_operands_are_the_librarys_to_judge(loopback: Loopback):
    cublas = standin.make("cupy_backends.cuda.libs.cublas")
    signature = next(each for each in checked_functions("cublas") if each.name == "sgemm")
    check = checks.check("cublas", signature)
    assert check is not None
    assert check(1, 0, 0, 0, 4, 4, 0, 0, 1, 0, 1, 0, 0, 1) == 0
    del cublas
