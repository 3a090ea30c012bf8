//! Which paths open between which NATs: the broadcaster's behind every kind, the viewer's behind every
//! kind, over real kernel NAT. [`Scene`] is the network with its programs, [`Scene::attempt`] one try,
//! [`Expect`] what theory allows, and [`tables()`] what docs/nat.md shows.

mod expect;
mod kind;
mod record;
mod scene;
mod tables;
mod tail;

pub use expect::Expect;
pub use kind::Kind;
pub use record::{Profile, Record};
pub use scene::Scene;
pub use tables::tables;
