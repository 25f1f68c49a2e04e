/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What src/backend/vz/vz_machine.m, and the double of the framework that it is tested with, use of Foundation and libdispatch,
 * declared by us: enough for a compiler on another system. Names and types are those of Apple's documentation. Where there
 * is GNUstep, its classes are behind these declarations, and dispatch.m is behind those of libdispatch.
 */
#ifndef KELPIE_TESTS_VZ_FOUNDATION_H
#define KELPIE_TESTS_VZ_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef signed char BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#define nil ((id)0)
typedef unsigned long NSUInteger;

@protocol NSObject
@end

__attribute__((objc_root_class))
@interface NSObject<NSObject>
+ (instancetype)alloc;
- (instancetype)init;
- (void)dealloc;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char *)text;
@property(readonly) const char *UTF8String;
@end

@interface NSData : NSObject
- (instancetype)initWithBase64EncodedString:(NSString *)text options:(NSUInteger)options;
- (instancetype)initWithBytes:(const void *)bytes length:(NSUInteger)length;
@property(readonly) const void *bytes;
@property(readonly) NSUInteger length;
- (NSString *)base64EncodedStringWithOptions:(NSUInteger)options;
@end

@interface NSURL : NSObject
+ (NSURL *)fileURLWithPath:(NSString *)path;
@property(readonly) NSString *path;
@end

@interface NSDictionary : NSObject
+ (instancetype)dictionaryWithObject:(id)object forKey:(id)key;
@end

extern NSString *const NSLocalizedDescriptionKey;

@interface NSError : NSObject
+ (instancetype)errorWithDomain:(NSString *)domain code:(long)code userInfo:(NSDictionary *)info;
@property(readonly) NSString *localizedDescription;
@end

@interface NSArray : NSObject
+ (instancetype)arrayWithObjects:(const id *)objects count:(NSUInteger)count;
- (id)objectAtIndex:(NSUInteger)index;
@property(readonly) NSUInteger count;
@end

@interface NSMutableArray : NSArray
+ (instancetype)array;
- (void)addObject:(id)object;
@end

@interface NSFileHandle : NSObject
- (instancetype)initWithFileDescriptor:(int)fd closeOnDealloc:(BOOL)close;
@property(readonly) int fileDescriptor;
@end

static inline void *CFBridgingRetain(id object) {
    return (__bridge_retained void *)object;
}
static inline id CFBridgingRelease(void *object) {
    return (__bridge_transfer id)object;
}

/* libdispatch */
@protocol OS_dispatch_queue
@end
@protocol OS_dispatch_semaphore
@end
typedef NSObject<OS_dispatch_queue> *dispatch_queue_t;
typedef NSObject<OS_dispatch_semaphore> *dispatch_semaphore_t;
typedef uint64_t dispatch_time_t;
#define DISPATCH_TIME_NOW 0ull
#define DISPATCH_TIME_FOREVER (~0ull)
#define DISPATCH_QUEUE_SERIAL nil
#define NSEC_PER_MSEC 1000000ull

#define DISPATCH_RETURNS_RETAINED __attribute__((ns_returns_retained))
DISPATCH_RETURNS_RETAINED dispatch_queue_t dispatch_queue_create(const char *label, id attributes);
void dispatch_async(dispatch_queue_t queue, void (^block)(void));
void dispatch_sync(dispatch_queue_t queue, void (^block)(void));
DISPATCH_RETURNS_RETAINED dispatch_semaphore_t dispatch_semaphore_create(intptr_t value);
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t deadline);
dispatch_time_t dispatch_time(dispatch_time_t when, int64_t delta_ns);

#endif
