# tilewright._emulator: the CUDA kernels compiled for the host, with the machine that runs them. For tests only; see
# docs/emulator.md. A build tree of its own (`make emulated`), because there the .cu files are C++.

find_program(TILEWRIGHT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
mark_as_advanced(TILEWRIGHT_NVCC)
set(roots $ENV{CUDA_HOME} $ENV{CUDA_PATH})
if(TILEWRIGHT_NVCC)
  execute_process(COMMAND ${TILEWRIGHT_NVCC} --dryrun -x cu /dev/null ERROR_VARIABLE said OUTPUT_QUIET)
  if(said MATCHES "#\\$ TOP=([^\n]+)")
    string(STRIP "${CMAKE_MATCH_1}" top)
    list(APPEND roots ${top})
  endif()
endif()
list(TRANSFORM roots APPEND /include)
# Triton's wheel brings the headers too, all but one.
execute_process(COMMAND ${Python_EXECUTABLE} -c
    "from importlib.util import find_spec; spec = find_spec('triton'); print(spec.submodule_search_locations[0] if spec else '')"
    OUTPUT_VARIABLE triton OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_path(TILEWRIGHT_CUDA_HEADERS cuda_bf16.h HINTS ${roots} /usr/local/cuda/include ${triton}/backends/nvidia/include
          DOC "CUDA's headers")
if(NOT TILEWRIGHT_CUDA_HEADERS)
  message(FATAL_ERROR "The emulator needs CUDA's headers (cuda_bf16.h and its kin). Install a CUDA toolkit or Triton, or "
                      "set TILEWRIGHT_CUDA_HEADERS to their folder.")
endif()
message(STATUS "Emulator: CUDA's headers from ${TILEWRIGHT_CUDA_HEADERS}")

file(GLOB_RECURSE TILEWRIGHT_EMULATOR_SOURCES CONFIGURE_DEPENDS csrc/emulator/*.cpp)
list(FILTER TILEWRIGHT_EMULATOR_SOURCES EXCLUDE REGEX "/csrc/emulator/module.cpp$")
# The driver makes tensor maps; the emulator has its own.
set(host_sources ${TILEWRIGHT_CUDA_HOST_SOURCES})
list(FILTER host_sources EXCLUDE REGEX "/csrc/cuda/tensor_map.cpp$")

add_library(tilewright_emulator_flags INTERFACE)
target_include_directories(tilewright_emulator_flags INTERFACE csrc kernels)
# The toolkit's nv/target comes first where there is one.
target_compile_options(tilewright_emulator_flags INTERFACE -Wall -Wextra -Wno-psabi
    "SHELL:-idirafter ${TILEWRIGHT_CUDA_HEADERS}" "SHELL:-idirafter ${TILEWRIGHT_CUDA_HEADERS}/cccl"
    "SHELL:-idirafter ${CMAKE_CURRENT_SOURCE_DIR}/csrc/emulator/include")
target_compile_definitions(tilewright_emulator_flags INTERFACE
    TILEWRIGHT_EMULATED=1 TILEWRIGHT_HAS_CUDA=1 TILEWRIGHT_HAS_SM90A=1)
if(TILEWRIGHT_WERROR)
  target_compile_options(tilewright_emulator_flags INTERFACE -Werror)
endif()

# Objects, and first on each link line: of an inline function (std::string's, say) that is in several objects the first
# one stays, and the emulator must not run one that announces its loads and stores to itself.
add_library(tilewright_emulator_core OBJECT ${TILEWRIGHT_EMULATOR_SOURCES})
set_target_properties(tilewright_emulator_core PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
target_link_libraries(tilewright_emulator_core PRIVATE tilewright_emulator_flags)
target_compile_options(tilewright_emulator_core PRIVATE -O2)

# The kernels alone are instrumented: g++ announces each of their loads and stores, and what C++ leaves undefined, to
# functions that the emulator defines in place of the sanitizers' libraries. -g1: reports name lines.
add_library(tilewright_emulated_kernel_flags INTERFACE)
target_link_libraries(tilewright_emulated_kernel_flags INTERFACE tilewright_emulator_flags)
target_compile_options(tilewright_emulated_kernel_flags INTERFACE -x c++ -O1 -g1
    -fsanitize=thread,alignment,bounds,shift,signed-integer-overflow
    "SHELL:--param tsan-instrument-func-entry-exit=0" -Wno-unknown-pragmas)

add_library(tilewright_emulated_kernels OBJECT ${TILEWRIGHT_CUDA_SOURCES})
set_source_files_properties(${TILEWRIGHT_CUDA_SOURCES} PROPERTIES LANGUAGE CXX)
target_link_libraries(tilewright_emulated_kernels PRIVATE tilewright_emulated_kernel_flags)

pybind11_add_module(_emulator MODULE NO_EXTRAS csrc/emulator/module.cpp ${host_sources}
                    $<TARGET_OBJECTS:tilewright_emulator_core> $<TARGET_OBJECTS:tilewright_emulated_kernels>)
target_link_libraries(_emulator PRIVATE tilewright_emulator_flags ${CMAKE_DL_LIBS})
target_compile_options(_emulator PRIVATE -O2)

add_subdirectory(tests/emulator)
