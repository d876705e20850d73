//! What tests of several rooms use. Not in the program.
//!
//! | file | what |
//! | --- | --- |
//! | `packets.rs` | packets of every kind for properties, made and judged without the code under test |
//! | `reference.rs` | a slow, obvious translator to hold the real one against |
//! | `scene.rs` | settings that most tests of the translator begin with |
//! | `wires.rs` | wires in memory, in virtual time, with real TCP/IP endpoints on them |
//! | `fuzzed.rs` | how much generated input a test has seen |
//! | `import_rule.rs` | which room may use which |
//! | `circles.rs` | no files of a room use each other in a circle |
//! | `pages.rs` | what the pages of the repository must hold to |

mod circles;
pub mod fuzzed;
mod import_rule;
pub mod packets;
mod pages;
pub mod reference;
pub mod scene;
pub mod wires;
