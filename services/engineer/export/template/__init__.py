"""What is copied into every exported package, its imports renamed: real modules here, checked like all others."""
