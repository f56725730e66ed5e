"""Published search spaces, each its own file, exact: shapes, parameters, order of ops, what runs in place.

All are imported with this package: a function that has the name of its file would be hidden by the file otherwise.
"""

from __future__ import annotations

from cnnlive.nas.spaces.darts import darts
from cnnlive.nas.spaces.mobilenet import mobilenet
from cnnlive.nas.spaces.nasbench101 import nasbench101
from cnnlive.nas.spaces.nasbench201 import nasbench201
from cnnlive.nas.spaces.nasbench_macro import nasbench_macro
from cnnlive.nas.spaces.nats_size import nats_size
from cnnlive.nas.spaces.ofa_mobilenetv3 import ofa_mobilenetv3
from cnnlive.nas.spaces.ofa_proxyless import ofa_proxyless
from cnnlive.nas.spaces.randwire import randwire
from cnnlive.nas.spaces.regnet import regnet

__all__ = [
    "darts",
    "mobilenet",
    "nasbench101",
    "nasbench201",
    "nasbench_macro",
    "nats_size",
    "ofa_mobilenetv3",
    "ofa_proxyless",
    "randwire",
    "regnet",
]
