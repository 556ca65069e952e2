# Every library tessera uses, each as one imported target; what is missing is named with the package that brings it.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
include(TesseraTorch)

# --- from the distribution ----------------------------------------------------------------------------------------------
# tessera_require(<found> <what> <Debian package>): one line with the remedy instead of CMake's page.
function(tessera_require found what package)
  if(NOT ${found})
    message(FATAL_ERROR "${what} was not found: run ./launch/setup, or install ${package} (Debian's name) or its like")
  endif()
endfunction()

find_package(MPI QUIET COMPONENTS C)
tessera_require(MPI_C_FOUND "MPI" libopenmpi-dev)
add_library(tessera_mpi INTERFACE)
target_link_libraries(tessera_mpi INTERFACE MPI::MPI_C)
target_compile_definitions(tessera_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)

set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 QUIET COMPONENTS C)
tessera_require(HDF5_FOUND "HDF5" libhdf5-dev)
foreach(entry "fmt:libfmt-dev" "spdlog:libspdlog-dev" "nlohmann_json:nlohmann-json3-dev" "CLI11:libcli11-dev"
              "JPEG:libjpeg-dev" "PNG:libpng-dev" "ZLIB:zlib1g-dev")
  string(REPLACE ":" ";" entry "${entry}")
  list(GET entry 0 package)
  list(GET entry 1 debian)
  find_package(${package} QUIET)
  tessera_require(${package}_FOUND "${package}" ${debian})
endforeach()
foreach(entry "SENTENCEPIECE:sentencepiece:libsentencepiece-dev" "PCRE2:libpcre2-8:libpcre2-dev"
              "UTF8PROC:libutf8proc:libutf8proc-dev" "XXHASH:libxxhash:libxxhash-dev" "WEBP:libwebp:libwebp-dev"
              "WEBPDEMUX:libwebpdemux:libwebp-dev")
  string(REPLACE ":" ";" entry "${entry}")
  list(GET entry 0 prefix)
  list(GET entry 1 module)
  list(GET entry 2 debian)
  pkg_check_modules(${prefix} QUIET IMPORTED_TARGET ${module})
  tessera_require(${prefix}_FOUND "${module}" ${debian})
endforeach()
find_path(TOMLPLUSPLUS_INCLUDE_DIR toml++/toml.h)
tessera_require(TOMLPLUSPLUS_INCLUDE_DIR "toml++" libtomlplusplus-dev)

if(TESSERA_TESTS)
  find_package(GTest QUIET)
  tessera_require(GTest_FOUND "GoogleTest" libgtest-dev)
  include(GoogleTest)
endif()
if(TESSERA_BENCH)
  find_package(benchmark QUIET)
  tessera_require(benchmark_FOUND "Google Benchmark" libbenchmark-dev)
endif()
