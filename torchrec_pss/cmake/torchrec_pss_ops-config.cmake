# torchrec_pss::torchrec_pss_ops: torch.ops.torchrec_pss for C++ programs, the library that the Python package loads. It has no Python.
#
#   cmake -DCMAKE_PREFIX_PATH="$(python -c 'import torch, torchrec_pss; print(torch.utils.cmake_prefix_path, torchrec_pss.cmake_prefix_path, sep=";")')"
#
# To build it without the package: torchrec_pss/ops/csrc/CMakeLists.txt.
include(CMakeFindDependencyMacro)
find_dependency(Torch)

get_filename_component(_library "${CMAKE_CURRENT_LIST_DIR}/../libtorchrec_pss_ops.so" REALPATH)
if(NOT EXISTS "${_library}")
  set(torchrec_pss_ops_FOUND FALSE)
  set(torchrec_pss_ops_NOT_FOUND_MESSAGE "${_library} is not there: torchrec_pss was installed without a C++ compiler")
  return()
endif()
add_library(torchrec_pss::torchrec_pss_ops SHARED IMPORTED)
# Nothing calls into it, and a linker would leave it out.
set_target_properties(torchrec_pss::torchrec_pss_ops PROPERTIES
  IMPORTED_LOCATION "${_library}"
  INTERFACE_LINK_LIBRARIES "${TORCH_LIBRARIES}"
  INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed")
