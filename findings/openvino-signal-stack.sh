#!/bin/sh
# openvino 2026.4.1 on Linux, CPU plug-in.
#
# Expected: a library that gives its caller's thread another stack for signals takes it away so that none, or a valid
# one, is left.
# Seen: each openvino.Core that has loaded the CPU plug-in sets one and on its way out sets the one it found. Of two
# Cores, of which the first goes first, the second leaves the first's: memory that is no longer mapped. Python's own
# handlers run on that stack, so the next signal that has one ends the process; faulthandler then prints nothing.
# Here: train/network/deploy/runtimes.py makes one Core, which is never dropped.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet openvino==2026.4.1
cat > "$folder/look.py" << 'PYTHON'
import ctypes
import sys

sys.modules["openvino_telemetry"] = None
import openvino


class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def look(when):
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    spans = ([int(end, 16) for end in line.split()[0].split("-")] for line in open("/proc/self/maps"))
    mapped = any(low <= (stack.start or 0) < high for low, high in spans)
    print(f"{when}: {('mapped' if mapped else 'NOT mapped') if stack.size else 'none'}")


look("before")
cores = [openvino.Core(), openvino.Core()]
for core in cores:
    core.get_property("CPU", "FULL_DEVICE_NAME")
del core
look("two Cores")
del cores[0]
look("the first dropped")
del cores[0]
look("both dropped")
PYTHON
"$folder/env/bin/python" -c 'import openvino; print("openvino", openvino.__version__)' 2> /dev/null
"$folder/env/bin/python" "$folder/look.py" 2> /dev/null | tee "$folder/found.txt"
printf 'before: none\ntwo Cores: mapped\nthe first dropped: mapped\nboth dropped: NOT mapped\n' | cmp - "$folder/found.txt"
echo "still so"
