"""The wire between client and server: protobuf messages, generated code committed."""
