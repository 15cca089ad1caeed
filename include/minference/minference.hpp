// MInference in C++: the C ABI of libminference with types, ownership and exceptions. Header-only.
//
// Every function throws minference::Error when the library refuses; the message has the form "name rule, got
// value". Shapes use B batch, Hq query heads, Hkv key/value heads (Hq % Hkv == 0), D head_dim. Strides are in
// elements, and the last dimension is contiguous. Views borrow: what they point to must outlive the call, and
// outputs alias no input. minference.h has the contract of each step in full.
#pragma once

#include <minference/cpp/context.hpp>
#include <minference/cpp/error.hpp>
#include <minference/cpp/index.hpp>
#include <minference/cpp/patterns.hpp>
#include <minference/cpp/prefill.hpp>
#include <minference/cpp/steps.hpp>
#include <minference/cpp/tensor.hpp>
