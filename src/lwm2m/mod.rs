//! The LwM2M data model: paths, values, links, attributes, formats and object definitions.
//!
//! Nothing here knows of datagrams, devices or MQTT.

pub mod arguments;
pub mod attributes;
pub mod codec;
pub mod link;
pub mod model;
pub mod object_list;
pub mod path;
pub mod registered;
pub mod target;
pub mod value;

pub use arguments::Arguments;
pub use attributes::{AttributeChange, Edge, NotificationAttributes};
pub use codec::ContentFormat;
pub use model::{Models, Version};
pub use object_list::ObjectList;
pub use path::{Id, Level, Path};
pub use registered::RegisteredObject;
pub use target::Target;
pub use value::{DataType, ObjectLink, Record, Value};
