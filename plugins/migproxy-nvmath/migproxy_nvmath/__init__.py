"""nvmath-python through migproxy: the functions of its bindings of cuBLAS, cuBLASLt, cuFFT and cuSOLVER are carried."""

from migproxy.interpose.plugin import Plugin, later

_MODULES = (
    "nvmath.bindings.cublas",
    "nvmath.bindings.cublasLt",
    "nvmath.bindings.cufft",
    "nvmath.bindings.cusolver",
    "nvmath.bindings.cusolverDn",
)

PLUGIN = Plugin(
    name="nvmath",
    interface=2,
    after_import={
        **dict.fromkeys(_MODULES, later("migproxy_nvmath.function:install")),
        "nvmath._internal.workspace": later("migproxy_nvmath.function:workspaces"),
    },
    executor="migproxy_nvmath.executor",
    libraries=_MODULES,
    tables="migproxy_nvmath.tables:tables",
    check="migproxy_nvmath.checking",
)
