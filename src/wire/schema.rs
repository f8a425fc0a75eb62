//! The JSON Schemas of what goes in and comes out, made from the types that read and write it. They
//! describe; the readers check, and they check more (see `content`).

use super::event::Event;
use super::job::Document;
use schemars::generate::SchemaSettings;

/// A send job.
pub fn job_schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.into_generator().into_root_schema_for::<Document>().to_value()
}

/// An event. Every key is required, since each is always written, null where unknown.
pub fn event_schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<Event>().to_value()
}
