// A test program's checks: each failure is printed, and the exit status is their number (at most 100).
#pragma once

#include <iostream>
#include <string>

inline int failures = 0;

inline bool check(bool condition, const std::string& what) {
  if (!condition && ++failures <= 20) std::cerr << "FAILED: " << what << "\n";
  return condition;
}

template <class A, class B>
bool check_equal(const A& got, const B& expected, const std::string& what) {
  if (got == expected) return true;
  if (++failures <= 20)
    std::cerr << "FAILED: " << what << ": got " << got << ", expected " << expected << "\n";
  return false;
}

inline int conclude() {
  if (failures > 0) std::cerr << failures << " checks failed\n";
  return failures < 100 ? failures : 100;
}
