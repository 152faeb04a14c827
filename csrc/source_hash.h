// What this extension was made of: tools/hash_sources.py writes the definition during the build.
#pragma once

namespace tilewright {

extern const char* const kSourceHash;

}  // namespace tilewright
