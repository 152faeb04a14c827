// Python's keyword arguments as the fields of a plan.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/types.h"

namespace tilewright::cuda {

// Takes each argument out by name, with a type; `finish` complains of those that nobody took.
class Keywords {
 public:
  explicit Keywords(const pybind11::kwargs& given)
      : left_(pybind11::reinterpret_steal<pybind11::dict>(PyDict_Copy(given.ptr()))) {}

  template <class T>
  T take(const char* name) {
    if (!left_.contains(name)) throw std::invalid_argument(std::string(name) + " is missing");
    const pybind11::object value = left_[name];
    PyDict_DelItemString(left_.ptr(), name);
    try {
      return value.cast<T>();
    } catch (const pybind11::cast_error&) {
      throw std::invalid_argument(std::string(name) + " is " + std::string(pybind11::repr(value)) +
                                  ", of the wrong type");
    }
  }

  int64_t size(const char* name) {
    const int64_t value = take<int64_t>(name);
    if (value < 0)
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", below 0");
    return value;
  }

  // None gives `otherwise`.
  DataType type(const char* name, DataType otherwise = DataType::f32) {
    const pybind11::object value = take<pybind11::object>(name);
    if (value.is_none()) return otherwise;
    const std::string text = pybind11::str(value);
    if (text == "f32") return DataType::f32;
    if (text == "bf16") return DataType::bf16;
    if (text == "f16") return DataType::f16;
    throw std::invalid_argument(std::string(name) + " is '" + text + "'; expected f32, bf16 or f16");
  }

  Activation activation(const char* name) {
    const int code = take<int>(name);
    if (code < 0 || code > static_cast<int>(Activation::silu)) {
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(code) + "; expected 0 to 4");
    }
    return static_cast<Activation>(code);
  }

  void finish() const {
    if (left_.empty()) return;
    throw std::invalid_argument("unknown arguments " + std::string(pybind11::repr(pybind11::list(left_))));
  }

 private:
  pybind11::dict left_;
};

}  // namespace tilewright::cuda
