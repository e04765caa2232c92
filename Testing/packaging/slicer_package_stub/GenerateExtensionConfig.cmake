# Refuses missing metadata and writes what there is to a file, one line each, for tests to read.

set(_description "")
foreach(_field IN ITEMS HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${_field}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${_field} is not set")
  endif()
  string(APPEND _description "${_field} ${EXTENSION_${_field}}\n")
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/${EXTENSION_NAME}.description.txt" "${_description}")
