# Refuses what the real packaging skips silently, or the Extensions Index rejects.

if(NOT EXTENSION_NAME STREQUAL CMAKE_PROJECT_NAME)
  message(FATAL_ERROR "the extension is ${EXTENSION_NAME}, but the project ${CMAKE_PROJECT_NAME}: nothing would be packaged")
endif()
foreach(_file IN ITEMS LICENSE README.md)
  if(NOT EXISTS "${CMAKE_SOURCE_DIR}/${_file}")
    message(FATAL_ERROR "an extension needs ${_file} in its root folder")
  endif()
endforeach()
