#!/bin/sh
# Install vLLM for CPUs into /opt/venv, as small as it still serves. Runs as root in a container of
# the base image; $1 is the directory of this script.
set -eu
export DEBIAN_FRONTEND=noninteractive

# libnuma: vLLM's kernels link to it. binutils: strip, below; not kept.
apt-get update -q
apt-get install -q -y --no-install-recommends libnuma1 libstdc++6 binutils
python3 -m venv /opt/venv
/opt/venv/bin/pip install --no-cache-dir --no-deps --progress-bar off \
    --requirement "$1/requirements.txt"

packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Headers, C++ test programs and Python tests: 190 MB that no engine reads.
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
rm -rf "$packages/torch/include" "$packages/torch/test"
# Test suites, translations of country names, and other people's tokenizers: 150 MB.
find "$packages" -type d -name tests -prune -exec rm -rf {} +
rm -rf "$packages/pycountry/locales" "$packages/mistral_common/data"
# Symbols: 420 MB.
find "$packages/torch/lib" "$packages/vllm" -name '*.so*' -type f -exec strip --strip-unneeded {} +
apt-get purge -q -y --autoremove binutils
apt-get clean
rm -rf /var/lib/apt/lists/*

# PyPI's torchvision is built for CUDA's torch: see torchvision_operators.py.
cp "$1/torchvision_operators.py" "$packages/"
echo 'import torchvision_operators' > "$packages/torchvision_operators.pth"
# The root file system is read-only at run time; compiling would cost 20 s at each start. Files
# written for a newer Python than this one do not compile, and are not imported either.
/opt/venv/bin/python -m compileall -q -j 0 /opt/venv > /dev/null || true
