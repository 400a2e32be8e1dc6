"""The standard library's `ssl` module, with nolabel's pretraining submodules beside it.

A top-level package named `ssl` hides the standard module from the whole process. So this package *is* the standard
module: the standard file runs in this namespace, and everything that imports ssl (asyncio, urllib, torchrun, pip, …)
finds every name it expects. `ssl.pretrain`, `ssl.losses`, … come on top. Nothing else belongs in this file.
"""
import sys
import sysconfig
from importlib.machinery import PathFinder

PathFinder.find_spec(__name__, [sysconfig.get_path("stdlib")]).loader.exec_module(sys.modules[__name__])
del sysconfig, PathFinder
