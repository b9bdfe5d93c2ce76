// What filters need of the standard library, without one: see runtime.c.
#ifndef TIDEGATE_STRING_H
#define TIDEGATE_STRING_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *left, const void *right, size_t size);
size_t strlen(const char *text);

#ifdef __cplusplus
}
#endif
#endif
