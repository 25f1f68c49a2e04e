/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Lets what clang makes of Objective-C with automatic reference counting (-fobjc-runtime=gnustep-1.8 -fobjc-legacy-dispatch) run
 * on the runtime that Debian has, which is GCC's, with GNUstep's classes. So the code under test is compiled as on macOS, and
 * the compiler, not a macro, decides what is retained and released.
 *
 * Three things are missing there. Classes come with instance variables whose offsets are still to be added to the size
 * of the class above (modules are put right before GCC's __objc_exec_class() sees them, which the linker's --wrap lets us); a method
 * is looked up by other functions; and there are no objc_retain() and the like. They do here what clang's "Automatic
 * Reference Counting" (section "Runtime support") says, by messages, and without its short cuts.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct object *id;
typedef const void *SEL;
typedef id (*IMP)(id self, SEL selector);

/* What GCC's runtime and the compiler agree on (version 8), and what clang adds at the end of a class. */
struct class {
    struct class *meta;
    struct class *super; /* in a module: its name */
    const char *name;
    long version;
    unsigned long info; /* 1: a class; 2: a meta class */
    long instance_size; /* in a module: of its own variables, negative */
    void *ivars;
    void *methods;
    void *dtable;
    struct class *subclasses;
    struct class *sibling;
    void *protocols;
    void *gc;
    long abi_version;
    int **ivar_offsets;
    void *properties;
    long strong_pointers;
    long weak_pointers;
};

struct ivars {
    int count;
    struct {
        const char *name;
        const char *type;
        int offset;
    } list[];
};

struct category {
    const char *name;
    const char *class_name;
    void *instance_methods;
    void *class_methods;
    void *protocols;
};

struct module {
    unsigned long version;
    unsigned long size;
    const char *name;
    struct {
        unsigned long selector_count;
        void *selectors;
        unsigned short class_count;
        unsigned short category_count;
        void *definitions[];
    } * table;
};

struct object {
    struct class *class;
};

/* GCC's runtime */
void __real___objc_exec_class(struct module *module);
/* The linker has it answer what the library asks for too. */
__attribute__((visibility("default"))) void __wrap___objc_exec_class(struct module *module);
struct class *objc_lookup_class(const char *name);
SEL sel_get_any_uid(const char *name);
IMP objc_msg_lookup(id receiver, SEL selector);
IMP objc_msg_lookup_super(void *super, SEL selector);
void objc_setProperty(id self, SEL selector, ptrdiff_t offset, id value, bool atomic, bool copy);
struct class *objc_get_class(const char *name);

/* libBlocksRuntime */
extern void *_NSConcreteStackBlock[];
extern void *_NSConcreteMallocBlock[];
extern void *_NSConcreteGlobalBlock[];
void *_Block_copy(const void *block);
void _Block_release(const void *block);

/* ---- Modules ---------------------------------------------------------------------------------- */

#define MODULE_VERSION_GCC 8

/* The class above: of a library, or of this module, above. */
static struct class *super_of(const struct module *module, const struct class *class) {
    const char *name = (const char *)class->super;
    for (unsigned i = 0; i < module->table->class_count; i++) {
        struct class *other = module->table->definitions[i];
        if (__builtin_strcmp(other->name, name) == 0) {
            return other;
        }
    }
    return objc_lookup_class(name);
}

static void place(const struct module *module, struct class *class) {
    struct ivars *ivars = class->ivars;
    const struct class *super = super_of(module, class);
    if (!super || super->instance_size <= 0 || class->instance_size > 0) {
        abort(); /* classes stand in their file after those above them */
    }
    for (int i = 0; ivars && i < ivars->count; i++) {
        ivars->list[i].offset += (int)super->instance_size;
        *class->ivar_offsets[i] = ivars->list[i].offset;
    }
    class->instance_size = super->instance_size - class->instance_size;
    class->info = 1;
    class->meta->info = 2;
    class->protocols = class->meta->protocols = NULL; /* another form; nobody asks for them */
}

void __wrap___objc_exec_class(struct module *module) {
    module->version = MODULE_VERSION_GCC;
    module->size = sizeof(*module);
    for (unsigned i = 0; i < module->table->class_count; i++) {
        place(module, module->table->definitions[i]);
    }
    for (unsigned i = 0; i < module->table->category_count; i++) {
        struct category *category =
            module->table->definitions[module->table->class_count + (size_t)i];
        category->protocols = NULL;
    }
    __real___objc_exec_class(module);
}

/* ---- Messages --------------------------------------------------------------------------------- */

struct slot {
    void *unused[3];
    int version;
    IMP method;
};

struct slot *objc_msg_lookup_sender(id *receiver, SEL selector, id sender);
struct slot *objc_slot_lookup_super(void *super, SEL selector);

static _Thread_local struct slot slot; /* read at once */

struct slot *objc_msg_lookup_sender(id *receiver, SEL selector, id sender) {
    (void)sender;
    slot.method = objc_msg_lookup(*receiver, selector);
    return &slot;
}

struct slot *objc_slot_lookup_super(void *super, SEL selector) {
    slot.method = objc_msg_lookup_super(super, selector);
    return &slot;
}

static id send(id object, const char *message) {
    SEL selector = sel_get_any_uid(message);
    return objc_msg_lookup(object, selector)(object, selector);
}

/* ---- Automatic reference counting ------------------------------------------------------------- */

id objc_retain(id object);
id objc_retainBlock(id block);
void objc_release(id object);
id objc_autorelease(id object);
id objc_autoreleaseReturnValue(id object);
id objc_retainAutoreleaseReturnValue(id object);
id objc_retainAutoreleasedReturnValue(id object);
id objc_retainAutorelease(id object);
void objc_storeStrong(id *location, id object);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);
void objc_setProperty_atomic(id self, SEL selector, id value, ptrdiff_t offset);
void objc_setProperty_nonatomic(id self, SEL selector, id value, ptrdiff_t offset);
void objc_setProperty_atomic_copy(id self, SEL selector, id value, ptrdiff_t offset);
void objc_setProperty_nonatomic_copy(id self, SEL selector, id value, ptrdiff_t offset);

static bool is_block(id object) {
    const void *class = object->class;
    return class == _NSConcreteStackBlock || class == _NSConcreteMallocBlock ||
           class == _NSConcreteGlobalBlock;
}

id objc_retainBlock(id block) {
    return block ? _Block_copy(block) : NULL;
}

id objc_retain(id object) {
    if (!object) {
        return NULL;
    }
    return is_block(object) ? objc_retainBlock(object) : send(object, "retain");
}

void objc_release(id object) {
    if (!object) {
        return;
    }
    if (is_block(object)) {
        _Block_release(object);
    } else {
        send(object, "release");
    }
}

id objc_autorelease(id object) {
    return object ? send(object, "autorelease") : NULL;
}

id objc_autoreleaseReturnValue(id object) {
    return objc_autorelease(object);
}

id objc_retainAutorelease(id object) {
    return objc_autorelease(objc_retain(object));
}

id objc_retainAutoreleaseReturnValue(id object) {
    return objc_retainAutorelease(object);
}

id objc_retainAutoreleasedReturnValue(id object) {
    return objc_retain(object);
}

void objc_storeStrong(id *location, id object) {
    id old = *location;
    *location = objc_retain(object);
    objc_release(old);
}

void *objc_autoreleasePoolPush(void) {
    return send(send((id)objc_get_class("NSAutoreleasePool"), "alloc"), "init");
}

void objc_autoreleasePoolPop(void *pool) {
    objc_release(pool);
}

void objc_setProperty_atomic(id self, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty(self, selector, offset, value, true, false);
}

void objc_setProperty_nonatomic(id self, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty(self, selector, offset, value, false, false);
}

void objc_setProperty_atomic_copy(id self, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty(self, selector, offset, value, true, true);
}

void objc_setProperty_nonatomic_copy(id self, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty(self, selector, offset, value, false, true);
}
