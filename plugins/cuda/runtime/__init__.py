"""The runtime API's semantics (``cuda*``) on top of ``migproxy.session.api``; import them from
`migproxy_plugins.cuda.runtime_api`."""
