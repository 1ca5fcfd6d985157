use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::*;
use crate::sources::kubernetes;
use crate::sources::object::Kind;

#[test]
fn the_definitions_are_of_the_kinds_that_are_followed() {
    let defined: Vec<CustomResourceDefinition> =
        DEFINITIONS.iter().map(|text| serde_saphyr::from_str(text).expect("a definition")).collect();
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.api_version() == "cilium.io/v2");
    for kind in kinds {
        let resource = kubernetes::resource(kind);
        let name = format!("{}.{}", resource.plural, resource.group);
        let found = defined.iter().find(|d| d.metadata.name.as_deref() == Some(&name)).expect("defined");
        assert_eq!(found.spec.names.kind, resource.kind);
        assert_eq!(found.spec.scope == "Namespaced", kind.is_namespaced());
        let schema = found.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        // A misspelt field must reach us: pruned, it would open what it was to close.
        assert_eq!(schema.and_then(|s| s.x_kubernetes_preserve_unknown_fields), Some(true));
    }
}
