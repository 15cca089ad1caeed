/* minference.h is C11, and the layout that other languages bind stays what it is. */
#include <minference/minference.h>
#include <string.h>

_Static_assert(sizeof(minference_head_pattern) == 5 * sizeof(int32_t),
               "an int32 array [num_heads, 5] is one of these");
_Static_assert(sizeof(minference_tensor) == sizeof(void*) + 8 * sizeof(int64_t) + 2 * sizeof(int32_t),
               "no padding");
_Static_assert(sizeof(minference_sequence) == 5 * sizeof(int64_t), "no padding");

int main(void) {
  minference_context* context = NULL;
  if (strcmp(minference_version(), MINFERENCE_VERSION) != 0) return 1;
  if (minference_abi_version() != MINFERENCE_ABI_VERSION) return 2;
  if (minference_context_create(NULL, &context) != MINFERENCE_OK) return 3;
  minference_context_destroy(context);
  minference_context_destroy(NULL);
  if (minference_context_create(NULL, NULL) != MINFERENCE_INVALID_ARGUMENT) return 4;
  return strlen(minference_last_error()) > 0 ? 0 : 5;
}
