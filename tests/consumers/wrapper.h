/* What wrapper.c offers: the version of the qkv in it.  SPDX-License-Identifier: MIT */
#ifndef WRAPPER_H
#define WRAPPER_H

const char *wrapper_version(void);

#endif
