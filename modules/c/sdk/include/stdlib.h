// What filters need of the standard library, without one: see runtime.c.
#ifndef TIDEGATE_STDLIB_H
#define TIDEGATE_STDLIB_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void *malloc(size_t size);
void *calloc(size_t count, size_t size);
// The contents up to the smaller of the two sizes are kept; `block` may be NULL.
void *realloc(void *block, size_t size);
// Does nothing: all memory goes with the instance at the end of the call.
void free(void *block);
_Noreturn void abort(void);

#ifdef __cplusplus
}
#endif
#endif
