/* The entry point: hands over to the command table of src/cli. */
#include "stacksample/cli.h"

int main(int argc, char **argv)
{
  return ss_main(argc, argv);
}
