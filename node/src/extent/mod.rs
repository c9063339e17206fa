//! Extent maps: which blocks of an image are written and where, and what differs between two.
