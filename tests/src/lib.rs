//! What whole-system tests are made of. [`lab`] builds networks with real NAT out of network
//! namespaces and runs real programs in them.

pub mod lab;
