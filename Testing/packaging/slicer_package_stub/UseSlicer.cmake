# The macros a scripted extension calls, with the keywords, checks and destinations of the real ones.

set(EXTENSION_NAME ${PROJECT_NAME})
option(BUILD_TESTING "Build the testing tree." ON)
enable_testing()

# slicerMacroBuildScriptedModule(NAME n SCRIPTS … [RESOURCES …] [WITH_GENERIC_TESTS] [WITH_SUBDIR] [VERBOSE])
#
# Copies the files, by their paths relative to the caller, into qt-scripted-modules of the build tree, WITH_SUBDIR
# into a folder there that is named like the caller's, and installs the copy.
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(_module "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(_module_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: unknown keywords ${_module_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT _module_NAME OR NOT _module_SCRIPTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: NAME and SCRIPTS are needed")
  endif()

  set(_destination "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(_installed "${_destination}/") # the contents of the folder
  if(_module_WITH_SUBDIR)
    cmake_path(GET CMAKE_CURRENT_SOURCE_DIR FILENAME _subdir)
    set(_destination "${_destination}/${_subdir}")
    set(_installed "${_destination}") # the folder itself
  endif()
  if(_module_VERBOSE)
    message(STATUS "${_module_NAME}: into ${_destination}")
  endif()

  set(_copies)
  foreach(_file IN LISTS _module_SCRIPTS _module_RESOURCES)
    _slicer_stub_check_file("${_file}")
    set(_source "${CMAKE_CURRENT_SOURCE_DIR}/${_file}")
    set(_copy "${_destination}/${_file}")
    add_custom_command(
      OUTPUT "${_copy}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${_source}" "${_copy}"
      DEPENDS "${_source}"
      COMMENT "" VERBATIM
      )
    list(APPEND _copies "${_copy}")
  endforeach()
  add_custom_target(${_module_NAME}PythonFiles ALL DEPENDS ${_copies})
  install(DIRECTORY "${_installed}"
    DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    COMPONENT RuntimeLibraries
    )

  if(BUILD_TESTING AND _module_WITH_GENERIC_TESTS)
    add_test(NAME py_nomainwindow_${_module_NAME} COMMAND "${CMAKE_COMMAND}" -E true)
  endif()
endmacro()

# The real macro pastes absolute paths and ".." onto the destination, where they land outside the package.
function(_slicer_stub_check_file file)
  if(IS_ABSOLUTE "${file}" OR file MATCHES "(^|/)\\.\\.(/|$)")
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: ${file} is not below ${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}" OR IS_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: there is no file ${file} in ${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
endfunction()

# slicer_add_python_unittest(SCRIPT f.py [SLICER_ARGS …] [TESTNAME_PREFIX p]): only registered here, not run.
function(slicer_add_python_unittest)
  cmake_parse_arguments(PARSE_ARGV 0 _test "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS")
  if(_test_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicer_add_python_unittest: unknown keywords ${_test_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${_test_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_unittest: there is no script ${_test_SCRIPT}")
  endif()
  cmake_path(GET _test_SCRIPT STEM _name)
  add_test(NAME py_${_test_TESTNAME_PREFIX}${_name} COMMAND "${CMAKE_COMMAND}" -E true)
endfunction()
