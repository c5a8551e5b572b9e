"""Special registers: their names, and what the lowering makes of each."""

from __future__ import annotations

_DIMENSIONAL = ("tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid")

#: shared memory that cooperative groups use as scratch, where a kernel asks for it
RESERVED = tuple(f"%reserved_smem_offset_{name}" for name in ("begin", "end", "cap", "0", "1"))
RESERVED_BYTES = 1024

#: every special register that PTX text may name; those that the lowering refuses fail there, by name
NAMES: frozenset[str] = frozenset(
    [f"%{name}.{axis}" for name in _DIMENSIONAL for axis in "xyz"]
    + [f"%{name}" for name in _DIMENSIONAL]
    + """%laneid %warpid %nwarpid %smid %nsmid %gridid %is_explicit_cluster %cluster_ctarank %cluster_nctarank
    %lanemask_eq %lanemask_le %lanemask_lt %lanemask_ge %lanemask_gt %clock %clock_hi %clock64 %globaltimer
    %globaltimer_lo %globaltimer_hi %total_smem_size %aggr_smem_size %dynamic_smem_size %reserved_smem_offset_begin
    %reserved_smem_offset_end %reserved_smem_offset_cap %reserved_smem_offset_0 %reserved_smem_offset_1
    %current_graph_exec""".split()  # noqa: SIM905
    + [f"%pm{n}" for n in range(8)]
    + [f"%pm{n}_64" for n in range(8)]
    + [f"%envreg{n}" for n in range(32)]
)
