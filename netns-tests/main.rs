//! Tests with real kernels, real clients and real servers, in network namespaces. They need root.
//!
//! A test's name starts with the number of the requirement it shows. The lab is in [`lab`] (hosts and wires),
//! [`gateway`] (the program under test), [`capture`] (what was on a wire), [`traffic`] (servers and clients),
//! [`crafted`] (packets made byte by byte), [`crossing`] (a gateway with a hand on either wire).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod capture;
mod crafted;
mod crossing;
mod gateway;
mod lab;
mod relayed;
mod traffic;

mod asking;
mod bindings;
mod bulk;
mod cascade;
mod closed;
mod clsact;
mod confined;
mod doctor;
mod durable;
mod fastpath;
mod firewalls;
mod flowtable;
mod foremost;
mod fragments;
mod ftp;
mod handover;
mod history;
mod icmp;
mod interfaces;
mod ledger;
mod life;
mod links;
mod many;
mod multipath;
mod naming;
mod neighbourhood;
mod next_hops;
mod occupied;
mod one_view;
mod outside_lan;
mod pairs;
mod path_mtu;
mod privacy;
mod realms;
mod relay;
mod relay_operator;
mod reload;
mod rfc;
mod rules;
mod seeing;
mod selftest;
mod settings;
mod spoofing;
mod survive;
mod through_proxies;
mod transports;
mod uplinks;
mod workers;
mod wrong_input;
mod xdp;
