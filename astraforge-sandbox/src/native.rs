//! The native driver: Linux namespaces, Landlock and seccomp, without a daemon and without root.
