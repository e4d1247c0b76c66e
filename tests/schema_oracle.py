"""JSON Schema by its specification, as far as the schema of specs uses it."""

import re

TYPES = {"object": dict, "array": list, "string": str, "number": (int, float)}


def is_type(value, name):
    """Whether a value is of the type of that name; 3.0 is an integer."""
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return name != "boolean" and isinstance(value, TYPES[name])


def fits(value, schema):
    """Whether a value, as TOML is read, fits a schema."""
    kinds = schema.get("type", [])
    if kinds and not any(is_type(value, k) for k in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "anyOf" in schema and not any(fits(value, each) for each in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str):
        # ECMA's digits are ASCII and its $ is the end, not the line feed before it.
        pattern = re.sub(r"\$(?=$|\))", r"\\Z", schema.get("pattern", ""))
        if not re.search(pattern, value, re.ASCII):
            return False
        if len(value) > schema.get("maxLength", len(value)):
            return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if not low <= value <= high or (above is not None and value <= above):
            return False
        if below is not None and value >= below:
            return False
    if isinstance(value, list):
        if schema.get("uniqueItems") and any(v in value[:i] for i, v in enumerate(value)):
            return False
        return all(fits(v, schema.get("items", {})) for v in value) and len(value) >= schema.get(
            "minItems", 0
        )
    if isinstance(value, dict):
        if len(value) < schema.get("minProperties", 0):
            return False
        known = schema.get("properties", {})
        if schema.get("additionalProperties") is False and set(value) - set(known):
            return False
        whole = set(schema.get("required", ())) <= set(value)
        return whole and all(fits(v, known.get(k, {})) for k, v in value.items())
    return True
