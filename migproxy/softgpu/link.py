"""The linker: ``cuLink*`` on PTX. Its "cubin" is the PTX container."""

from __future__ import annotations

from dataclasses import dataclass, field

from migproxy.errors import CudaError
from migproxy.softgpu import container, images
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.graph_nodes import GraphNodeApi
from migproxy.softgpu.modules import read_options
from migproxy.softgpu.state import entry, need

_INPUT_CUBIN, _INPUT_PTX, _INPUT_KINDS = 0, 1, 6


@dataclass(eq=False)
class LinkState:
    """A link in progress."""

    texts: list[bytes] = field(default_factory=list)
    output: raw.Buffer | None = None


class LinkApi(GraphNodeApi):
    """``cuLink*``."""

    def _link(self, handle: int) -> LinkState:
        return self.handles.get(handle, LinkState)

    @entry
    def cuLinkCreate(self, numOptions: int, options: int, optionValues: int, stateOut: int) -> None:
        self.context()
        need(stateOut)
        read_options(numOptions, options, optionValues)
        raw.write_u64(stateOut, self.handles.add(LinkState()))

    @entry
    def cuLinkAddData(
        self,
        state: int,
        type: int,
        data: int,
        size: int,
        name: int,
        numOptions: int,
        options: int,
        optionValues: int,
    ) -> None:
        need(data and size > 0)
        self._add_input(self._link(state), type, raw.read_bytes(data, size))

    @entry
    def cuLinkAddFile(self, state: int, type: int, path: int, numOptions: int, options: int, optionValues: int) -> None:
        link = self._link(state)
        need(path)
        name = raw.read_string(path).decode("utf-8", "surrogateescape")
        try:
            with open(name, "rb") as file:
                data = file.read()
        except OSError as error:
            raise CudaError(status.FILE_NOT_FOUND, str(error)) from error
        self._add_input(link, type, data)

    def _add_input(self, link: LinkState, kind: int, data: bytes) -> None:
        need(0 <= kind < _INPUT_KINDS, f"input type {kind}")
        need(link.output is None, "the link is complete already")
        if kind == _INPUT_PTX or container.is_container(data):
            link.texts += images.texts_of(data)
        else:
            raise CudaError(status.NO_BINARY_FOR_GPU, f"the software GPU links PTX, not inputs of type {kind}")

    @entry
    def cuLinkComplete(self, state: int, cubinOut: int, sizeOut: int) -> None:
        link = self._link(state)
        need(cubinOut and link.texts, "nothing to link")
        image = container.wrap(link.texts)
        link.output = raw.Buffer(len(image))
        raw.write_bytes(link.output.address, image)
        raw.write_u64(cubinOut, link.output.address)
        if sizeOut:
            raw.write_u64(sizeOut, len(image))

    @entry
    def cuLinkDestroy(self, state: int) -> None:
        self._link(state)
        self.handles.drop(state)
