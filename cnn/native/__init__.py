"""The C++ of the project, behind the XLA FFI: oneDNN and pooling. `build` compiles it, `onednn` calls it."""
