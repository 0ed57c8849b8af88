/* SPDX-License-Identifier: MIT */
/**
 * @file
 * The version of the headers that a program was compiled with.
 *
 * The build reads these three numbers; the soname is the major one.
 */
#ifndef SER_VERSION_H
#define SER_VERSION_H

#define SER_VERSION_MAJOR 0
#define SER_VERSION_MINOR 1
#define SER_VERSION_PATCH 0

/** One comparable number: major * 1000000 + minor * 1000 + patch. */
#define SER_VERSION_NUMBER                                                                         \
    (SER_VERSION_MAJOR * 1000000 + SER_VERSION_MINOR * 1000 + SER_VERSION_PATCH)

#endif
