//! What whole-system tests are made of. [`lab`] builds networks with real NAT out of network
//! namespaces and runs real programs in them; [`stage`] is the network that most tests play on;
//! [`renewal`] breaks paths in it, and [`matrix`] sets all kinds of NAT against each other; [`coturn`]
//! is a relay that is not ours; [`clip`] looks at recordings and [`traffic`] at captures; [`stored`] makes
//! clips whose pictures and sounds tell when they are to be shown and heard, and [`offer`] offers such;
//! [`rogue`] is a rendezvous that lies. [`prometheus`] and [`browser`] are those that operators use; [`load`] is thousands of viewers in a
//! process, and [`mod@bench`] what benches have in common.

pub mod bench;
pub mod browser;
pub mod clip;
pub mod coturn;
pub mod film;
pub mod lab;
pub mod load;
pub mod local;
pub mod matrix;
pub mod offer;
pub mod prometheus;
pub mod renewal;
pub mod rogue;
pub mod stage;
pub mod stored;
pub mod traffic;
