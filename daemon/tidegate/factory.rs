//! The factory modules, built into the binary by `build.rs`; they carry the binary's trust.

/// One factory module.
pub(crate) struct FactoryModule {
    /// The name that configurations use.
    pub(crate) name: &'static str,
    /// Its manifest, JSON.
    pub(crate) manifest: &'static str,
    /// Its component.
    pub(crate) component: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/factory.rs"));
