"""Converters of Medical-CL: pathology, surgery, cells, radiology."""
