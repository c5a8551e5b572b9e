"""Triton through migproxy: compiled in the function, launched through the session by a driver object of ours."""

from migproxy.interpose.plugin import Plugin, later

PLUGIN = Plugin(
    name="triton",
    interface=2,
    after_import={
        "triton.backends.nvidia.driver": later("migproxy_triton.driver:install"),
        "triton.backends.nvidia.compiler": later("migproxy_triton.compiler:install"),
        "triton.runtime.driver": later("migproxy_triton.driver:choose"),
        "triton.runtime.jit": later("migproxy_triton.arrays:install"),
    },
    check="migproxy_triton.checking",
)
