#!/usr/bin/env bash
# Everything that wants a CUDA GPU, in order, on a machine with nothing compiled yet.
#
#     benchmarks/on_gpu.sh OUTPUT [--skip STEP[,STEP...]] [--only STEP[,STEP...]] [--stage1-steps N] [--capture SCENE]
#
# Steps: compile (gsplat's kernels), test (pytest -m gpu), and the sections cuda, finetuning and stage1 of
# python -m benchmarks. Each writes OUTPUT/<step>.log and stops at STEP_SECONDS (580), so that a step fits in ten minutes:
# give a step that was stopped again, alone. compile and stage1 go on where they were, exports are made once.
# $PYTHON is the interpreter (default: .venv/bin/python where there is one); its environment has nerfstudio and fit3d.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
STEPS=(compile test cuda finetuning stage1)
STEP_SECONDS=${STEP_SECONDS:-580}
export FIT3D_BACKBONE_WEIGHTS=${FIT3D_BACKBONE_WEIGHTS:-offline}

refuse() {
    echo "$1" >&2
    exit 2
}

usage="benchmarks/on_gpu.sh OUTPUT [--skip STEP,...] [--only STEP,...] [--stage1-steps N] [--capture SCENE]"
output="" skip="" only="" stage1_steps="" capture=examples/room
while (($#)); do
    case $1 in
    -h | --help)
        echo "$usage"
        exit 0
        ;;
    --skip | --only | --stage1-steps | --capture)
        (($# > 1)) || refuse "$1 needs a value: $usage"
        case $1 in
        --skip) skip=$2 ;;
        --only) only=$2 ;;
        --stage1-steps) stage1_steps=$2 ;;
        --capture) capture=$2 ;;
        esac
        shift 2
        ;;
    -*) refuse "$1 is no option: $usage" ;;
    *)
        [[ -z $output ]] || refuse "Two output folders, $output and $1: $usage"
        output=$1
        shift
        ;;
    esac
done
[[ -n $output ]] || refuse "Name a folder for logs and results: $usage"
for name in ${skip//,/ } ${only//,/ }; do
    [[ " ${STEPS[*]} " == *" $name "* ]] || refuse "There is no step $name; choose from ${STEPS[*]}."
done
[[ -z $stage1_steps || $stage1_steps =~ ^[1-9][0-9]*$ ]] || refuse "--stage1-steps is $stage1_steps, not a number of steps."
[[ -e $capture ]] || refuse "--capture $capture does not exist; name a scene as ns-train takes it."

python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
fi
command -v "$python" >/dev/null || refuse "$python is no program; set PYTHON to the environment's interpreter."
"$python" -c "import torch" 2>/dev/null || refuse "$python cannot import torch; set PYTHON to the environment's interpreter."
"$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2>/dev/null ||
    refuse "There is no CUDA device (torch.cuda.is_available() is False in $python); run this on a machine that has one."

wanted() {
    [[ ",$skip," != *",$1,"* ]] && [[ -z $only || ",$only," == *",$1,"* ]]
}

# gsplat asks for nvcc on the path even where its kernels are compiled already, and torch for the toolkit's own folder.
if ! command -v nvcc >/dev/null && [[ -x ${CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]]; then
    PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
fi
command -v nvcc >/dev/null || refuse "There is no nvcc, with which gsplat is compiled; install the CUDA toolkit or set CUDA_HOME."
# nvcc on the path may be a link or a script beside other programs; it says itself where its toolkit is.
top=$(nvcc --dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p' || true)
export CUDA_HOME=${CUDA_HOME:-$(realpath "${top:-$(dirname "$(realpath "$(command -v nvcc)")")/..}")}
TORCH_CUDA_ARCH_LIST=$("$python" -c "import torch; print('%d.%d' % torch.cuda.get_device_capability())")
MAX_JOBS=$(nproc)
export TORCH_CUDA_ARCH_LIST MAX_JOBS

mkdir -p "$output"
output=$(cd "$output" && pwd)
{
    date -u +%FT%TZ
    "$python" -c "import torch; print(torch.cuda.get_device_name(), torch.__version__, 'CUDA', torch.version.cuda)"
    nvcc --version | tail -n 2
    echo "CUDA_HOME $CUDA_HOME, architecture $TORCH_CUDA_ARCH_LIST, $MAX_JOBS jobs"
} | tee "$output/machine.txt"

failed=()
step() {
    local name=$1 start=$SECONDS status=0
    shift
    wanted "$name" || return 0
    echo "$name ..."
    timeout --signal=INT --kill-after=15 "$STEP_SECONDS" "$@" >"$output/$name.log" 2>&1 || status=$?
    if ((status)); then
        failed+=("$name")
        tail -n 15 "$output/$name.log"
        ((status != 124 && status != 137)) || echo "$name was stopped after $STEP_SECONDS s"
    fi
    echo "$name: exit code $status, $((SECONDS - start)) s, $output/$name.log" | tee -a "$output/times.txt"
    [[ $name != compile ]] || return "$status"
}

# gsplat throws a build away that did not end. So end it first: ninja goes on with the files that are left.
compile='
import os, subprocess
from torch.utils.cpp_extension import _get_build_directory
folder = _get_build_directory("gsplat_cuda", verbose=False)
made = [os.path.exists(os.path.join(folder, name)) for name in ("build.ninja", "gsplat_cuda.so")]
if made == [True, False]:
    subprocess.run(["ninja", "-C", folder], check=True)
from gsplat.cuda import _backend
assert _backend._C is not None, "gsplat found no nvcc"
'
bench=("$python" -m benchmarks --device cuda --work-dir "$output/work" --captures "$capture" --labelled "$capture")
step compile "$python" -c "$compile" || exit 1
step test "$python" -m pytest -m gpu -q --durations=5
step cuda "${bench[@]}" --only cuda --output "$output/cuda"
step finetuning "${bench[@]}" --only finetuning --output "$output/finetuning"
step stage1 "${bench[@]}" --only stage1 ${stage1_steps:+--stage1-steps "$stage1_steps"} --output "$output/stage1"
((${#failed[@]} == 0)) || {
    echo "Failed: ${failed[*]}"
    exit 1
}
