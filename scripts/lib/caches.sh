# Puts the caches of the serving environment and its installers below BASE_DIR/cache, not in the home directory or /tmp.
# A variable that is already set stays. Sourced after settings.sh.
# shellcheck shell=bash
while read -r name directory; do
  [[ -n ${!name:-} ]] || export "$name=$BASE_DIR/cache${directory:+/$directory}"
done <<'CACHES'
XDG_CACHE_HOME
UV_CACHE_DIR uv
PIP_CACHE_DIR pip
VLLM_CONFIG_ROOT vllm-config
TRITON_HOME
TORCHINDUCTOR_CACHE_DIR torchinductor
FLASHINFER_WORKSPACE_BASE
TVM_FFI_CACHE_DIR tvm-ffi
TILELANG_CACHE_DIR tilelang
TILELANG_TMP_DIR tilelang/tmp
CUTE_DSL_CACHE_DIR cute-dsl
CUDA_CACHE_PATH nvidia
MPLCONFIGDIR matplotlib
CACHES
unset name directory
