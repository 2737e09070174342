//! Services' endpoints: EndpointSlices, and the older Endpoints object for whoever still reads it.

mod act;
mod legacy;
mod slices;
#[cfg(test)]
mod tests;

pub(super) use act::start;
