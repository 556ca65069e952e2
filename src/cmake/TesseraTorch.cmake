# LibTorch, and with it CUDA and NCCL where they are compiled in.
#   tessera_torch  headers, libtorch_cpu and libc10: what every room uses
#   tessera_cuda   libtorch_cuda, libc10_cuda and the CUDA runtime (only with TESSERA_HAVE_CUDA)
#   tessera_nccl   NCCL (only with TESSERA_HAVE_CUDA)
#   TESSERA_PYTHON the Python whose torch this is, for the tests

# --- where LibTorch is: a folder of CMAKE_PREFIX_PATH, or two above it (the wheel's share/cmake) -------------------------
# Nothing found here is cached: a changed prefix path must not meet yesterday's library.
set(tessera_torch_hints)
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND tessera_torch_hints "${prefix}" "${prefix}/../..")
endforeach()
foreach(folder "${Torch_DIR}" "$ENV{Torch_DIR}")
  if(folder)
    list(APPEND tessera_torch_hints "${folder}/../../..")
  endif()
endforeach()
find_path(TESSERA_TORCH_INCLUDE_DIR ATen/core/Tensor.h PATH_SUFFIXES include HINTS ${tessera_torch_hints} NO_CACHE)
find_library(TESSERA_TORCH_CPU_LIBRARY torch_cpu PATH_SUFFIXES lib HINTS ${tessera_torch_hints} NO_CACHE)
if(NOT TESSERA_TORCH_INCLUDE_DIR OR NOT TESSERA_TORCH_CPU_LIBRARY)
  message(FATAL_ERROR "LibTorch was not found: run ./launch/setup and ./launch/build, or pass "
                      "-DCMAKE_PREFIX_PATH=<the folder of LibTorch, or torch/share/cmake of a wheel>")
endif()
get_filename_component(TESSERA_TORCH_LIB_DIR "${TESSERA_TORCH_CPU_LIBRARY}" REALPATH)
get_filename_component(TESSERA_TORCH_LIB_DIR "${TESSERA_TORCH_LIB_DIR}" DIRECTORY)
get_filename_component(TESSERA_TORCH_ROOT "${TESSERA_TORCH_LIB_DIR}" DIRECTORY)

add_library(tessera_torch INTERFACE)
# LibTorch ships its own, newer fmt among its headers and hides the compiled half, so whoever sees them uses it header-only.
target_compile_definitions(tessera_torch INTERFACE FMT_HEADER_ONLY=1)
target_include_directories(tessera_torch SYSTEM INTERFACE
  "${TESSERA_TORCH_INCLUDE_DIR}" "${TESSERA_TORCH_INCLUDE_DIR}/torch/csrc/api/include")
# Linked by file, not by torch's targets, whose interface properties would bring every CUDA library along: a program on
# a machine without a GPU should not load gigabytes of kernels.
target_link_libraries(tessera_torch INTERFACE
  "${TESSERA_TORCH_LIB_DIR}/libtorch_cpu.so" "${TESSERA_TORCH_LIB_DIR}/libc10.so" Threads::Threads)
set(CMAKE_BUILD_RPATH "${TESSERA_TORCH_LIB_DIR}")

find_program(TESSERA_PYTHON NAMES python3 HINTS "${TESSERA_TORCH_ROOT}/../../../../bin")

# --- CUDA: compiled when a toolkit of LibTorch's major version is there ---------------------------------------------------
# tessera_torch_cuda_major(<out>): 13 for a CUDA 13 build, empty for a CPU build.
function(tessera_torch_cuda_major out)
  set(major "")
  if(EXISTS "${TESSERA_TORCH_LIB_DIR}/libtorch_cuda.so")
    if(EXISTS "${TESSERA_TORCH_ROOT}/version.py")  # the wheel: cuda: Optional[str] = '13.0'
      file(STRINGS "${TESSERA_TORCH_ROOT}/version.py" line REGEX "^cuda.*= *'[0-9]+")
      string(REGEX REPLACE ".*= *'([0-9]+).*" "\\1" major "${line}")
    elseif(EXISTS "${TESSERA_TORCH_ROOT}/build-version")  # the zip: 2.11.0+cu130
      file(STRINGS "${TESSERA_TORCH_ROOT}/build-version" line REGEX "[+]cu[0-9]+")
      string(REGEX REPLACE ".*[+]cu([0-9]+)[0-9].*" "\\1" major "${line}")
    endif()
  endif()
  set(${out} "${major}" PARENT_SCOPE)
endfunction()

set(TESSERA_HAVE_CUDA OFF)
set(tessera_no_cuda "left out by TESSERA_CUDA=OFF")
if(NOT TESSERA_CUDA STREQUAL "OFF")
  tessera_torch_cuda_major(tessera_torch_major)
  find_package(CUDAToolkit QUIET)
  # The headers are asked too: a folder with nvcc alone does not compile anything.
  if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE OR NOT TARGET CUDA::cudart)
    set(tessera_no_cuda "no CUDA toolkit with nvcc was found")
  elseif(NOT tessera_torch_major)
    set(tessera_no_cuda "this LibTorch was built without CUDA")
  elseif(NOT tessera_torch_major EQUAL CUDAToolkit_VERSION_MAJOR)
    set(tessera_no_cuda "the toolkit is CUDA ${CUDAToolkit_VERSION}, LibTorch was built for CUDA ${tessera_torch_major}")
  else()
    set(TESSERA_HAVE_CUDA ON)
  endif()
  if(TESSERA_CUDA STREQUAL "ON" AND NOT TESSERA_HAVE_CUDA)
    message(FATAL_ERROR "TESSERA_CUDA=ON, but ${tessera_no_cuda}: run ./launch/setup, name a toolkit with "
                        "-DCUDAToolkit_ROOT=, or pass -DTESSERA_CUDA=OFF")
  endif()
endif()

if(TESSERA_HAVE_CUDA)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
  endif()
  if(NOT DEFINED TORCH_CUDA_ARCH_LIST AND NOT DEFINED ENV{TORCH_CUDA_ARCH_LIST})
    set(TORCH_CUDA_ARCH_LIST "8.0;9.0;10.0")  # named, since torch's script asks a GPU otherwise and fails without one
  endif()
  set(CMAKE_CUDA_STANDARD 17)  # CMake 3.22 does not know nvcc's C++20 flag
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  enable_language(CUDA)
  # LibTorch's own package checks that toolkit and libraries fit and sets the flags of device code. Its targets carry
  # every CUDA library in their interface, so we link the files instead (above and below).
  # It adds the -gencode flags of TORCH_CUDA_ARCH_LIST and warns of CMake's own list of architectures, and of a profiler
  # library that no wheel has: only its errors are shown.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  set(CMAKE_MESSAGE_LOG_LEVEL ERROR)
  set(Torch_DIR "${TESSERA_TORCH_ROOT}/share/cmake/Torch")
  find_package(Torch REQUIRED CONFIG)
  unset(CMAKE_MESSAGE_LOG_LEVEL)

  # The NCCL that LibTorch itself loads (a second one in a process would be trouble), else the system's.
  file(GLOB tessera_nccl_packages "${TESSERA_TORCH_ROOT}/../nvidia/nccl")
  find_path(TESSERA_NCCL_INCLUDE_DIR nccl.h HINTS ${tessera_nccl_packages} PATH_SUFFIXES include NO_CACHE)
  find_library(TESSERA_NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${tessera_nccl_packages} PATH_SUFFIXES lib NO_CACHE)
  if(NOT TESSERA_NCCL_INCLUDE_DIR OR NOT TESSERA_NCCL_LIBRARY)
    message(FATAL_ERROR "NCCL was not found: install nvidia-nccl-cu${tessera_torch_major} beside torch or libnccl-dev, "
                        "or pass -DTESSERA_CUDA=OFF")
  endif()
  add_library(tessera_nccl INTERFACE)
  target_include_directories(tessera_nccl SYSTEM INTERFACE "${TESSERA_NCCL_INCLUDE_DIR}")
  target_link_libraries(tessera_nccl INTERFACE "${TESSERA_NCCL_LIBRARY}" CUDA::cudart)

  # Whoever includes c10/cuda or ATen/cuda links this. libtorch_cuda registers its kernels when it is loaded, so the
  # linker must keep it though no symbol of ours may need it.
  add_library(tessera_cuda INTERFACE)
  target_link_libraries(tessera_cuda INTERFACE tessera_torch
    "-Wl,--no-as-needed,${TESSERA_TORCH_LIB_DIR}/libtorch_cuda.so,--as-needed" "${TESSERA_TORCH_LIB_DIR}/libc10_cuda.so"
    CUDA::cudart)
  set(tessera_cuda_report "CUDA ${CUDAToolkit_VERSION} (${CUDAToolkit_NVCC_EXECUTABLE}), NCCL ${TESSERA_NCCL_LIBRARY}")
else()
  set(tessera_cuda_report "without CUDA (${tessera_no_cuda})")
endif()
message(STATUS "LibTorch: ${TESSERA_TORCH_ROOT}; ${tessera_cuda_report}")
