"""Which arguments of library functions are device memory, by name.

The prototypes say ``size_t`` or ``intptr_t`` for addresses, handles and numbers alike, so each name was looked up once
in the library's manual. A name that a later release brings is in none of the tables: a function that has one is refused
by name until somebody decides, and a test says so (`tests/meta/test_cupy_tables.py`).
"""

from __future__ import annotations

#: As wide as an address, and numbers.
NUMBERS = frozenset(
    {"lwork", "num", "n", "workspaceInBytesOnDevice", "workspaceInBytesOnHost", "bufferSize", "dataTypeA", "stream"}
)

_NAMES = {
    "cublas": "A AP Aarray B Barray C Carray PivotArray devIpiv infoArray x y",
    "cusolver": """
        A Aarray B Barray C D E S U V VL VR VT W Work b bufferOnDevice csrColInd csrColIndA csrRowPtr csrRowPtrA csrVal
        csrValA dA dB dInfo dX d_A d_S d_U d_V d_info d_work devInfo devIpiv dipiv dwork info infoArray ipiv mu rwork
        tau tauP tauQ work x x0
    """,
    "cusparse": """
        A B C P bsrSortedColInd bsrSortedRowPtr bsrSortedVal buffer cooColInd cooCols cooInd cooRowInd cooRows cooValues
        cscColOffsets cscColPtr cscColPtrA cscRowInd cscRowIndA cscSortedColPtrA cscSortedRowIndA cscSortedValA cscVal
        cscValA cscValues csrColInd csrColIndA csrColIndB csrColIndC csrColIndD csrColind csrRowOffsets csrRowPtr
        csrRowPtrA csrRowPtrB csrRowPtrC csrRowPtrD csrSortedColIndA csrSortedRowPtrA csrSortedValA
        csrSortedValA_valM csrVal csrValA csrValB csrValC csrValD csrValues d dl ds du dw externalBuffer
        externalBuffer1 externalBuffer2 inColInd inRowPtr inVal indices nnzPerCol nnzPerRow nnzPerRowColumn outColInd
        outRowPtr outVal p pBuffer pInputBuffer rowPtr values workspace x xInd xVal y
    """,
    "curand": "outputPtr",
}
DEVICE = {library: frozenset(names.split()) for library, names in _NAMES.items()}
