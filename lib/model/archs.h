/* SPDX-License-Identifier: MIT */
/* Architectures that the library knows by name. */
#ifndef SER_MODEL_ARCHS_H
#define SER_MODEL_ARCHS_H

/* The JSON text (models/FORMAT.md, "config", without labels) of a built-in architecture, or NULL. */
const char *ser_builtin_config(const char *name);

/* All names, for messages. */
const char *ser_builtin_names(void);

#endif
