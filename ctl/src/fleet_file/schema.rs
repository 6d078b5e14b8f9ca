//! The fleet file's JSON Schema (draft-07, which the YAML language server knows), for editors.
//!
//! Invariant: made from the types that read the file; the published copy is compared in a test.

use schemars::{
    Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::Value;

use super::FleetFile;

/// The schema as it is published in `deploy/schema/fleet.schema.json`.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft07().with_transform(WithoutNull).into_generator();
    generator.into_root_schema_for::<FleetFile>().to_value()
}

/// An optional key is left out, not written as null.
#[derive(Clone)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                schema.insert("type".to_owned(), one);
            }
        }
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
            if let [one] = choices.as_slice() {
                let one = Value::Array(vec![one.clone()]);
                schema.remove("anyOf");
                schema.insert("allOf".to_owned(), one);
            }
        }
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
        transform_subschemas(self, schema);
    }
}
