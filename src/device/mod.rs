//! Edges that carry packets.
