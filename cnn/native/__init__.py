"""The one C++ file of the project: oneDNN behind the XLA FFI. `build` compiles it, `onednn` calls it."""
