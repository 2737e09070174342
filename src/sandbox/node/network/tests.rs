//! Networks for real, where this machine and this user can make them.
