#pragma once

#include <new>
#include <string>

#include "base/error.h"
#include "minference/minference.h"

namespace minference::capi {

// Keeps the calling thread's last failure, none at first; never throws. Of a message longer than 1023 bytes the middle is
// left out. Returns `status`.
minference_status remember_error(minference_status status, const char* message) noexcept;
minference_status last_status() noexcept;
const char* last_error() noexcept;

// Runs the body of an API function; turns exceptions into a status and this thread's message.
template <class Body>
minference_status guarded(Body&& body) noexcept {
  try {
    body();
    return MINFERENCE_OK;
  } catch (const base::Error& error) {
    return remember_error(static_cast<minference_status>(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return remember_error(MINFERENCE_OUT_OF_MEMORY, "memory is exhausted");
  } catch (const std::exception& error) {
    return remember_error(MINFERENCE_INTERNAL, error.what());
  } catch (...) {
    return remember_error(MINFERENCE_INTERNAL, "unknown exception");
  }
}

template <class T>
T& not_null(T* pointer, const char* name) {
  if (!pointer) base::refuse(name, "must not be NULL", "NULL");
  return *pointer;
}

// Every struct of this version has one size; a larger one comes from a newer header that may ask for more.
template <class Struct>
const Struct& checked_struct(const Struct* pointer, const std::string& name) {
  const Struct& value = not_null(pointer, name.c_str());
  base::require(value.struct_size == sizeof(Struct), name + ".struct_size",
                "must be " + std::to_string(sizeof(Struct)), value.struct_size);
  return value;
}

}  // namespace minference::capi
