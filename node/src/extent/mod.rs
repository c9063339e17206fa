//! Extent maps: which blocks of an image are written and where, and what differs between two.
//!
//! ```text
//! map          FIEMAP in batches, rounded to blocks
//! allocated    what a first snapshot has to read: every written extent
//! difference   what a later one has to read: where the base's map and the cut's disagree
//! exclusive    how much space goes free with an image
//! image        the bytes themselves, past the page cache
//! ```
//!
//! # Invariants
//! An image that is mapped here is immutable (a cut), and so is its base: as long as both are there, their blocks are not given
//! to anyone else. So where both maps name the same address, both hold the same bytes.

mod aligned;
mod allocated;
mod difference;
mod exclusive;
mod image;
mod map;

pub use allocated::Allocated;
pub use difference::Difference;
pub use exclusive::exclusive;
pub use image::{ImageSource, ImageTarget};
pub use map::{Map, Mapped, State, map};
